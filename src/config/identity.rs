//! The identity of this process towards Azure.

use std::fmt;

/// An identity that Azure knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A managed identity of the platform: the app's own, or the user-assigned one with this client id.
    Managed {
        /// The client id of a user-assigned identity.
        client_id: Option<String>,
    },
    /// A Kubernetes service account.
    Workload {
        /// The client id to use instead of `AZURE_CLIENT_ID`.
        client_id: Option<String>,
    },
    /// The person signed in on this machine (`az login` or `azd auth login`).
    DeveloperTools,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Managed { client_id: None } => f.write_str("the system-assigned managed identity"),
            Self::Managed { client_id: Some(id) } => write!(f, "the user-assigned managed identity {id}"),
            Self::Workload { .. } => f.write_str("the workload identity"),
            Self::DeveloperTools => f.write_str("the user signed in with the Azure CLI or the Azure Developer CLI"),
        }
    }
}

impl Identity {
    /// Advice for an identity that does not work.
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Managed { client_id: None } => {
                "turn the app's system-assigned identity on, or name a user-assigned one with CosmosConnection__clientId"
            }
            Self::Managed { client_id: Some(_) } => "assign the identity with this client id to the app",
            Self::Workload { .. } => "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE, as the platform does for a pod",
            Self::DeveloperTools => {
                "run `az login`; in Azure set CosmosConnection__credential=managedidentity; or use a connection string in CosmosConnection"
            }
        }
    }
}
