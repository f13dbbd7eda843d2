"""Exports documents (by the teacher) and queries (by the student) as search engines want them."""
