"""The systems that bridges lead to, a small file for each."""
