"""Records -> tables and figures. Imports records only."""
