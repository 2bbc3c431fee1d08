"""The embedding service: one ASGI application over one engine, run by Ray Serve or by uvicorn."""
