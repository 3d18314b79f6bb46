"""The commands of the program `ilgnet`, a module each. `main` lists them and runs one."""
