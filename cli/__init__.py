"""The command line: it parses, calls the pipeline and shows. No logic lives here."""
