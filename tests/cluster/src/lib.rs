//! A real Kubernetes control plane, kwok and real nodes and Postgres, in one call.
