//! The Kubernetes API as the mesh sees it: client, watches, which pods are enrolled, policies as resources.
