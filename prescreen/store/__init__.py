"""State: one SQLite database and the files of the spool. No DICOM, no torch."""
