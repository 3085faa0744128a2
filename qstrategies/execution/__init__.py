"""A file at work: compared, timed, verified, used."""
