"""Operations: dead letters, replay, unrouted events, retention, the doctor."""
