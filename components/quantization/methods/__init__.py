"""A menu: each file holds one method, a function named like the file; `ls` is the list."""
