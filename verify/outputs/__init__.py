"""What people and services read of a report: a page, JUnit's XML, a summary for a pull request."""
