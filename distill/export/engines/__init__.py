"""Teacher-encoded documents and student-encoded queries as search engines want them."""
