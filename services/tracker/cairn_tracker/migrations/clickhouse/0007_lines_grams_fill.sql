-- For the lines that are there already; it goes on in the background.
ALTER TABLE lines MATERIALIZE INDEX grams
