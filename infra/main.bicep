metadata description = 'Waybill on Flex Consumption: app, queue, records, key, telemetry, alerts and, if wanted, a gateway.'

@description('The beginning of every name.')
@minLength(2)
@maxLength(11)
param name string = 'waybill'

param location string = resourceGroup().location

@description('The gateway in front: none, one that exists in this resource group, or a new one.')
@allowed(['none', 'existing', 'new'])
param gateway string = 'none'

@description('The name of the API Management service; needed with gateway = existing.')
param gatewayName string = ''

@description('The address of the publisher of a new gateway, to which Azure writes.')
param publisherEmail string = 'nobody@example.com'

@description('Whether the gateway has a second API that sends orders straight to the queue.')
param directToQueue bool = false

@description('The secret of the vault that has the key of the queue rule gateway; empty: the identity of the gateway sends. With it the namespace takes keys.')
param queueKeySecret string = ''

@description('The secret of the vault that has a host key of the app, which the gateway sends; empty: it sends none.')
param hostKeySecret string = ''

@description('The name of this host key in the app, which owns the orders that come through the gateway without a token; empty: the key default.')
param hostKeyName string = ''

@description('Copies in several availability zones.')
param zoneRedundant bool = false

@description('Instances of the HTTP functions that never stop.')
@minValue(0)
@maxValue(20)
param alwaysReadyHttp int = 0

@description('Instances of OrderProcessor that never stop.')
@minValue(0)
@maxValue(20)
param alwaysReadyProcessor int = 0

@description('The most instances on demand of each group of functions.')
@minValue(40)
@maxValue(1000)
param maximumInstances int = 40

@allowed([512, 2048, 4096])
param instanceMemory int = 2048

@description('What lets the platform read the length of the queue, so that instances start.')
@allowed(['owner', 'reader', 'none'])
param scaleRole string = 'owner'

@description('The consistency level of the records.')
@allowed(['Session', 'BoundedStaleness', 'Strong'])
param consistency string = 'Session'

@description('The issuer of the tokens that let callers in, whose tenant the gateway asks for too; empty: function keys.')
param authIssuer string = ''

@description('The audience of these tokens.')
param authAudience string = ''

@description('The address that alerts go to; empty: alerts are shown in the portal only.')
param alertEmail string = ''

@description('The monthly budget in the currency of the subscription; 0: none.')
@minValue(0)
param budget int = 0

@description('The first month of the budget. Azure refuses a change of it.')
param budgetStart string = utcNow('yyyy-MM-01')

// Cosmos DB takes small letters only.
var base = toLower(name)
var suffix = substring(uniqueString(resourceGroup().id, base), 0, 7)
var queueName = 'orders'
var databaseName = 'waybill'
var containerName = 'orders'
var appName = '${base}-${suffix}'
var frontName = empty(gatewayName) ? '${base}-gw-${suffix}' : gatewayName
var fronted = gateway != 'none'
// Made from the name of the gateway and not from its output: the gateway needs the app, and neither may wait for the other.
var publicBaseUrl = fronted ? 'https://${frontName}.azure-api.net/waybill' : ''
// Without a role that reads the length of the queue nothing starts by need, so that one instance never stops.
var readyProcessor = scaleRole == 'none' ? max(alwaysReadyProcessor, 1) : alwaysReadyProcessor
var subscriptionHeader = fronted ? 'X-Subscription-Id' : ''
// The caller that asks for the status of an order which the gateway sent to the queue.
var callerWithoutToken = empty(hostKeyName) ? 'anonymous' : 'key:${hostKeyName}'
var gatewayOwner = fronted && directToQueue ? (empty(authIssuer) ? callerWithoutToken : 'token') : ''

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: '${base}-${suffix}'
  location: location
}

module telemetry 'telemetry.bicep' = {
  name: 'telemetry'
  params: {
    name: base
    suffix: suffix
    location: location
    principalId: identity.properties.principalId
  }
}

module queue 'queue.bicep' = {
  name: 'queue'
  params: {
    namespaceName: '${base}-${suffix}'
    queueName: queueName
    location: location
    principalId: identity.properties.principalId
    scaleRole: scaleRole
    keys: !empty(queueKeySecret)
  }
}

module records 'records.bicep' = {
  name: 'records'
  params: {
    accountName: '${base}-${suffix}'
    databaseName: databaseName
    containerName: containerName
    location: location
    principalId: identity.properties.principalId
    consistency: consistency
    zoneRedundant: zoneRedundant
  }
}

module secret 'secret.bicep' = {
  name: 'secret'
  params: {
    vaultName: '${base}-${suffix}'
    location: location
    principalId: identity.properties.principalId
  }
}

module app 'app.bicep' = {
  name: 'app'
  params: {
    appName: appName
    storageName: '${replace(base, '-', '')}${suffix}'
    location: location
    identityId: identity.id
    principalId: identity.properties.principalId
    clientId: identity.properties.clientId
    zoneRedundant: zoneRedundant
    alwaysReadyHttp: alwaysReadyHttp
    alwaysReadyProcessor: readyProcessor
    maximumInstances: maximumInstances
    instanceMemory: instanceMemory
    namespaceHost: queue.outputs.host
    queueName: queueName
    cosmosEndpoint: records.outputs.endpoint
    databaseName: databaseName
    containerName: containerName
    keyUri: secret.outputs.keyUri
    componentName: telemetry.outputs.componentName
    authIssuer: authIssuer
    authAudience: authAudience
    publicBaseUrl: publicBaseUrl
    subscriptionHeader: subscriptionHeader
    gatewayOwner: gatewayOwner
  }
}

module alerts 'alerts.bicep' = {
  name: 'alerts'
  params: {
    name: base
    location: location
    email: alertEmail
    namespaceId: queue.outputs.namespaceId
    queueName: queueName
    accountId: records.outputs.accountId
    workspaceId: telemetry.outputs.workspaceId
    budget: budget
    budgetStart: budgetStart
  }
}

module newGateway 'gateway.bicep' = if (gateway == 'new') {
  name: 'gateway'
  params: {
    name: frontName
    location: location
    publisherEmail: publisherEmail
  }
}

module front 'front.bicep' = if (fronted) {
  name: 'front'
  params: {
    gatewayName: frontName
    appHost: app.outputs.host
    vaultName: secret.outputs.vaultName
    namespaceName: queue.outputs.namespaceName
    queueName: queueName
    authIssuer: authIssuer
    authAudience: authAudience
    hostKeySecret: hostKeySecret
    directToQueue: directToQueue
    queueKeySecret: queueKeySecret
  }
  dependsOn: [newGateway]
}

output AZURE_RESOURCE_GROUP string = resourceGroup().name
output WAYBILL_APP string = app.outputs.name
output WAYBILL_DIRECT_URL string = 'https://${app.outputs.host}/api'
output WAYBILL_URL string = fronted ? publicBaseUrl : 'https://${app.outputs.host}/api'
