-- Millionths of the money's unit for an hour, at which the attempt was charged; 0: by its hold.
ALTER TABLE meters ADD COLUMN price_micros bigint NOT NULL DEFAULT 0 CHECK (price_micros >= 0);
