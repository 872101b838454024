"""pytest puts the folder of a conftest onto the path: tests in the folders below share the modules beside this one."""
