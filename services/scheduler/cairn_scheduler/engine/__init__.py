"""The pure engine: `decide(snapshot) -> Plan`. No clock, no network, no database; see `world` for the types."""
