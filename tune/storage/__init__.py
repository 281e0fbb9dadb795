"""Where a study is stored while it runs: folder, object store, mirror and lease."""
