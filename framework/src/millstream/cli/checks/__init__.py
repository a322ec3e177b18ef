"""What `millstream check` looks at: declarations, engines, retention, security. Each part adds findings, none raises."""
