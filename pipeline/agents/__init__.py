"""Agents: who subscribes, what their handlers know and leave behind, and how they are called."""
