"""The database under the ledger: tables, statements, transactions, migrations."""
