"""What keeps a worker's main process and its pool alive and honest, whatever happens around a delivery."""
