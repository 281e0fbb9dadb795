"""How studies are stored: schemas, Arrow files, the journal, locks, atomic writes and object stores."""
