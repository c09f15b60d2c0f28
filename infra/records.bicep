metadata description = 'The container of the records, and what the app may do with it.'

param accountName string
param databaseName string
param containerName string
param location string
param principalId string
@allowed(['Session', 'BoundedStaleness', 'Strong'])
param consistency string
param zoneRedundant bool

var contributor = '00000000-0000-0000-0000-000000000002'
var definition = loadJsonContent('../deploy/cosmos-container.json')
var levels = {
  Session: { defaultConsistencyLevel: 'Session' }
  BoundedStaleness: { defaultConsistencyLevel: 'BoundedStaleness', maxStalenessPrefix: 100000, maxIntervalInSeconds: 300 }
  Strong: { defaultConsistencyLevel: 'Strong' }
}

resource account 'Microsoft.DocumentDB/databaseAccounts@2026-03-15' = {
  name: accountName
  location: location
  kind: 'GlobalDocumentDB'
  properties: {
    databaseAccountOfferType: 'Standard'
    locations: [
      { locationName: location, failoverPriority: 0, isZoneRedundant: zoneRedundant }
    ]
    capabilities: [
      { name: 'EnableServerless' }
    ]
    consistencyPolicy: levels[consistency]
    // Waybill refuses an account that takes writes in several regions.
    enableMultipleWriteLocations: false
    disableLocalAuth: true
    disableKeyBasedMetadataWriteAccess: true
    minimalTlsVersion: 'Tls12'
    publicNetworkAccess: 'Enabled'
    backupPolicy: {
      type: 'Continuous'
      continuousModeProperties: { tier: 'Continuous7Days' }
    }
  }
}

resource database 'Microsoft.DocumentDB/databaseAccounts/sqlDatabases@2026-03-15' = {
  parent: account
  name: databaseName
  properties: {
    resource: { id: databaseName }
  }
}

resource container 'Microsoft.DocumentDB/databaseAccounts/sqlDatabases/containers@2026-03-15' = {
  parent: database
  name: containerName
  properties: {
    resource: {
      id: containerName
      partitionKey: definition.partitionKey
      defaultTtl: definition.defaultTtl
      indexingPolicy: definition.indexingPolicy
    }
  }
}

resource writes 'Microsoft.DocumentDB/databaseAccounts/sqlRoleAssignments@2026-03-15' = {
  parent: account
  name: guid(container.id, principalId, contributor)
  properties: {
    principalId: principalId
    roleDefinitionId: '${account.id}/sqlRoleDefinitions/${contributor}'
    scope: '${account.id}/dbs/${database.name}/colls/${container.name}'
  }
}

// The app reads the consistency level and the clock of the account, which needs a right on the account; it reads no data.
resource metadataReader 'Microsoft.DocumentDB/databaseAccounts/sqlRoleDefinitions@2026-03-15' = {
  parent: account
  name: guid(account.id, 'metadata')
  properties: {
    roleName: 'Waybill account metadata'
    type: 'CustomRole'
    assignableScopes: [account.id]
    permissions: [
      { dataActions: ['Microsoft.DocumentDB/databaseAccounts/readMetadata'] }
    ]
  }
}

resource readsMetadata 'Microsoft.DocumentDB/databaseAccounts/sqlRoleAssignments@2026-03-15' = {
  parent: account
  name: guid(account.id, principalId, 'metadata')
  properties: {
    principalId: principalId
    roleDefinitionId: metadataReader.id
    scope: account.id
  }
}

output endpoint string = account.properties.documentEndpoint
output accountId string = account.id
