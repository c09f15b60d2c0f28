metadata description = 'The key of the tracking ids, made once.'

param vaultName string
param location string
param principalId string
@secure()
param firstHalf string = newGuid()
@secure()
param secondHalf string = newGuid()

var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'

resource vault 'Microsoft.KeyVault/vaults@2026-02-01' = {
  name: vaultName
  location: location
  properties: {
    tenantId: subscription().tenantId
    sku: { family: 'A', name: 'standard' }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 7
    publicNetworkAccess: 'Enabled'
  }
}

// Another key would forget which requests were sent before, so that no deployment may renew it.
@onlyIfNotExists()
resource key 'Microsoft.KeyVault/vaults/secrets@2026-02-01' = {
  parent: vault
  name: 'tracking-id-key'
  properties: {
    value: '${firstHalf}${secondHalf}'
    contentType: 'text/plain'
  }
}

resource reads 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: key
  name: guid(key.id, principalId, secretsUser)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
  }
}

output vaultName string = vault.name
output keyUri string = '${vault.properties.vaultUri}secrets/${key.name}/'
