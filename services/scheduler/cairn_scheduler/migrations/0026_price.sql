-- What an hour of the attempt's machines costs by the place's own account, millionths of a US dollar; 0: not known.
ALTER TABLE attempts ADD COLUMN price_micros bigint NOT NULL DEFAULT 0 CHECK (price_micros >= 0);
