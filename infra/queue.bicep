metadata description = 'The queue, and what the app may do with it.'

param namespaceName string
param queueName string
param location string
param principalId string
@allowed(['owner', 'reader', 'none'])
param scaleRole string
@description('Whether the namespace takes keys besides identities: for a gateway that signs with the key of its own rule.')
param keys bool

var sender = '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39'
var receiver = '4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0'
var owner = '090c5cfd-751d-490a-894a-3ce6f1109419'

resource namespace 'Microsoft.ServiceBus/namespaces@2026-01-01' = {
  name: namespaceName
  location: location
  sku: { name: 'Standard', tier: 'Standard' }
  properties: {
    disableLocalAuth: !keys
    minimumTlsVersion: '1.2'
    publicNetworkAccess: 'Enabled'
  }
}

resource queue 'Microsoft.ServiceBus/namespaces/queues@2026-01-01' = {
  parent: namespace
  name: queueName
  properties: {
    // The longest lock that there is; the host renews it while an invocation runs.
    lockDuration: 'PT5M'
    maxDeliveryCount: 10
    deadLetteringOnMessageExpiration: true
    requiresSession: false
    requiresDuplicateDetection: false
  }
}

resource gatewayRule 'Microsoft.ServiceBus/namespaces/queues/authorizationRules@2026-01-01' = if (keys) {
  parent: queue
  name: 'gateway'
  properties: { rights: ['Send'] }
}

resource sends 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: queue
  name: guid(queue.id, principalId, sender)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sender)
  }
}

resource receives 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: queue
  name: guid(queue.id, principalId, receiver)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', receiver)
  }
}

// Instances start only if the platform may read the length of the queue, and with Sender and Receiver alone it may not.
resource owns 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (scaleRole == 'owner') {
  scope: namespace
  name: guid(namespace.id, principalId, owner)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', owner)
  }
}

resource lengthReader 'Microsoft.Authorization/roleDefinitions@2022-04-01' = if (scaleRole == 'reader') {
  name: guid(resourceGroup().id, namespaceName, 'queue length')
  properties: {
    roleName: '${namespaceName} queue length'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      { actions: ['Microsoft.ServiceBus/namespaces/*/read'] }
    ]
  }
}

resource readsLength 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (scaleRole == 'reader') {
  scope: namespace
  name: guid(namespace.id, principalId, 'queue length')
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: lengthReader.id
  }
}

output host string = '${namespace.name}.servicebus.windows.net'
output namespaceName string = namespace.name
output namespaceId string = namespace.id
