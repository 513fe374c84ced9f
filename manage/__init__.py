"""What the Manage Server needs besides its routes."""
