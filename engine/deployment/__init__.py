"""What a deployment needs beside its roles: users of the store, layouts and their migration."""
