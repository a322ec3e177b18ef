"""What tests of services and of adapters are made with."""
