"""OpenTelemetry spans of front and engine. Imported only where the setting `traces` asks for it."""
