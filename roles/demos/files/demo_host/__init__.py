"""The demo host: the unmodified ChatGLM2-6B demos in one process, on one copy of the model."""
