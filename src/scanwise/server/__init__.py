"""REST API of trained models: `scanwise serve`. Needs the extra [serve]."""
