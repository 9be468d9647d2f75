"""The pure engine: `decide(snapshot) -> Plan`. See `world` for the types."""
