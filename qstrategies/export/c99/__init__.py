"""The program of a file as C99: a header, a source without dependencies, and a self-test."""
