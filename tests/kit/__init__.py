"""What tests are made with: servers, databases, scenes, independent models and verifiers."""
