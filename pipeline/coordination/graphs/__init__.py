"""What flows follow, as data, and pure functions that say what is next: no database, and no clock."""
