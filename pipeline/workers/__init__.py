"""Workers: what each does beside its deliveries."""
