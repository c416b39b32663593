//! A whole network in namespaces.
