"""The page's HTTP side: a client of the gRPC service that speaks to browsers. No torch."""
