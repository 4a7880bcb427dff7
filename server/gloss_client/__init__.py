"""The Gloss client: explanations of activations over gRPC, sync and asyncio. Needs no torch."""
