"""The decision written out: record, JUnit XML, HTML, terminal."""
