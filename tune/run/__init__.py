"""Running a study on Ray: command line, session, driver, callbacks, display."""
