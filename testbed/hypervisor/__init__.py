"""The only room that imports libvirt: connection, XML, domains, networks, volumes, consoles."""
