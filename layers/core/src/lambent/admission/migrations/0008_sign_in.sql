-- A good sign-in sweeps what no longer says anything, of however many addresses it is.
CREATE INDEX sign_in_limit_tat ON lambent.sign_in_limit (tat);
