metadata description = 'The function app on Flex Consumption, with its storage and settings.'

param appName string
param storageName string
param location string
param identityId string
param principalId string
param clientId string
param zoneRedundant bool
param alwaysReadyHttp int
param alwaysReadyProcessor int
param maximumInstances int
param instanceMemory int
param namespaceHost string
param queueName string
param cosmosEndpoint string
param databaseName string
param containerName string
param keyUri string
param componentName string
param authIssuer string
param authAudience string
param publicBaseUrl string
param subscriptionHeader string
param gatewayOwner string

var blobOwner = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
var packages = 'packages'
// With zone redundancy Azure wants two instances of each name that is listed.
var least = zoneRedundant ? 2 : 1
var readyHttp = alwaysReadyHttp > 0 ? [{ name: 'http', instanceCount: max(alwaysReadyHttp, least) }] : []
var readyProcessor = alwaysReadyProcessor > 0 ? [{ name: 'function:OrderProcessor', instanceCount: max(alwaysReadyProcessor, least) }] : []

resource component 'Microsoft.Insights/components@2020-02-02' existing = {
  name: componentName
}

resource storage 'Microsoft.Storage/storageAccounts@2026-04-01' = {
  name: storageName
  location: location
  kind: 'StorageV2'
  sku: { name: zoneRedundant ? 'Standard_ZRS' : 'Standard_LRS' }
  properties: {
    allowSharedKeyAccess: false
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2026-04-01' = {
  parent: storage
  name: 'default'
}

resource packageContainer 'Microsoft.Storage/storageAccounts/blobServices/containers@2026-04-01' = {
  parent: blobs
  name: packages
  properties: { publicAccess: 'None' }
}

resource ownsBlobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: storage
  name: guid(storage.id, principalId, blobOwner)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobOwner)
  }
}

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: appName
  location: location
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: {
    reserved: true
    zoneRedundant: zoneRedundant
  }
}

resource site 'Microsoft.Web/sites@2025-03-01' = {
  name: appName
  location: location
  kind: 'functionapp,linux'
  tags: { 'azd-service-name': 'waybill' }
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identityId}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    publicNetworkAccess: 'Enabled'
    // Without it the reference to the key is resolved with a system identity, which the app does not have.
    keyVaultReferenceIdentity: identityId
    clientAffinityEnabled: false
    siteConfig: { minTlsVersion: '1.2' }
    functionAppConfig: {
      // Any other text is accepted here, and the app never starts.
      runtime: { name: 'custom', version: '1.0' }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}${packages}'
          authentication: { type: 'UserAssignedIdentity', userAssignedIdentityResourceId: identityId }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemory
        maximumInstanceCount: maximumInstances
        alwaysReady: concat(readyHttp, readyProcessor)
      }
    }
  }
  dependsOn: [ownsBlobs, packageContainer]
}

// The whole collection: a setting that is not here is gone after the next deployment of this template.
resource settings 'Microsoft.Web/sites/config@2025-03-01' = {
  parent: site
  name: 'appsettings'
  properties: {
    AzureWebJobsStorage__accountName: storage.name
    AzureWebJobsStorage__credential: 'managedidentity'
    AzureWebJobsStorage__clientId: clientId
    ServiceBusConnection__fullyQualifiedNamespace: namespaceHost
    ServiceBusConnection__credential: 'managedidentity'
    ServiceBusConnection__clientId: clientId
    CosmosConnection__accountEndpoint: cosmosEndpoint
    CosmosConnection__credential: 'managedidentity'
    CosmosConnection__clientId: clientId
    APPLICATIONINSIGHTS_CONNECTION_STRING: component.properties.ConnectionString
    APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${clientId};Authorization=AAD'
    OrdersQueue: queueName
    SweepSchedule: '0 * * * * *'
    CosmosDatabase: databaseName
    CosmosContainer: containerName
    TRACKING_ID_KEY: '@Microsoft.KeyVault(SecretUri=${keyUri})'
    AUTH_ISSUER: authIssuer
    AUTH_AUDIENCE: authAudience
    PUBLIC_BASE_URL: publicBaseUrl
    RATE_LIMIT_SUBSCRIPTION_HEADER: subscriptionHeader
    ADOPT_GATEWAY_ORDERS: gatewayOwner
  }
}

resource noFtp 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: site
  name: 'ftp'
  properties: { allow: false }
}

resource noScmPassword 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: site
  name: 'scm'
  properties: { allow: false }
}

output name string = site.name
output host string = site.properties.defaultHostName
