metadata description = 'The gateway in front: an API made of our OpenAPI document, and, if wanted, one that sends straight to the queue.'

param gatewayName string
param appHost string
param vaultName string
param namespaceName string
param queueName string
param authIssuer string
param authAudience string
param hostKeySecret string
param directToQueue bool

var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'
var sender = '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39'
var policies = {
  keys: loadTextContent('apim/orders.xml')
  entra: loadTextContent('apim/orders-entra.xml')
  issuer: loadTextContent('apim/orders-issuer.xml')
}
var entra = startsWith(authIssuer, environment().authentication.loginEndpoint)
var tokens = entra ? 'entra' : 'issuer'
var door = empty(authIssuer) ? 'keys' : tokens
var keyHeader = empty(hostKeySecret) ? {} : { 'x-functions-key': ['{{waybill-host-key}}'] }

resource service 'Microsoft.ApiManagement/service@2024-05-01' existing = {
  name: gatewayName
}

resource vault 'Microsoft.KeyVault/vaults@2026-02-01' existing = {
  name: vaultName
}

resource hostKeyValue 'Microsoft.KeyVault/vaults/secrets@2026-02-01' existing = {
  parent: vault
  name: empty(hostKeySecret) ? 'none' : hostKeySecret
}

resource readsHostKey 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(hostKeySecret)) {
  scope: hostKeyValue
  name: guid(hostKeyValue.id, service.id, secretsUser)
  properties: {
    principalId: service.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
  }
}

resource hostKey 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = if (!empty(hostKeySecret)) {
  parent: service
  name: 'waybill-host-key'
  properties: {
    displayName: 'waybill-host-key'
    secret: true
    keyVault: { secretIdentifier: '${vault.properties.vaultUri}secrets/${hostKeySecret}' }
  }
  dependsOn: [readsHostKey]
}

resource issuer 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = if (!empty(authIssuer)) {
  parent: service
  name: 'waybill-issuer'
  properties: { displayName: 'waybill-issuer', value: authIssuer }
}

resource audience 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = if (!empty(authIssuer)) {
  parent: service
  name: 'waybill-audience'
  properties: { displayName: 'waybill-audience', value: authAudience }
}

resource tenant 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = {
  parent: service
  name: 'waybill-tenant'
  properties: { displayName: 'waybill-tenant', value: subscription().tenantId }
}

resource queueUrl 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = {
  parent: service
  name: 'waybill-queue-url'
  properties: { displayName: 'waybill-queue-url', value: 'https://${namespaceName}.servicebus.windows.net/${queueName}' }
}

resource backend 'Microsoft.ApiManagement/service/backends@2024-05-01' = {
  parent: service
  name: 'waybill'
  properties: {
    url: 'https://${appHost}/api'
    protocol: 'http'
    tls: { validateCertificateChain: true, validateCertificateName: true }
    credentials: { header: keyHeader }
    circuitBreaker: {
      rules: [
        {
          name: 'app-down'
          failureCondition: {
            count: 5
            interval: 'PT30S'
            // Not 503: Waybill answers it with a reason and Retry-After, which clients must see.
            statusCodeRanges: [
              { min: 500, max: 502 }
              { min: 504, max: 504 }
            ]
          }
          tripDuration: 'PT30S'
          acceptRetryAfter: true
        }
      ]
    }
  }
  dependsOn: [hostKey]
}

resource api 'Microsoft.ApiManagement/service/apis@2024-05-01' = {
  parent: service
  name: 'waybill'
  properties: {
    path: 'waybill'
    displayName: 'Waybill'
    protocols: ['https']
    subscriptionRequired: true
    type: 'http'
    format: 'openapi+json'
    value: loadTextContent('../docs/openapi.json')
  }
}

resource apiPolicy 'Microsoft.ApiManagement/service/apis/policies@2024-05-01' = {
  parent: api
  name: 'policy'
  properties: { format: 'xml', value: policies[door] }
  dependsOn: [backend, issuer, audience, tenant]
}

resource product 'Microsoft.ApiManagement/service/products@2024-05-01' = {
  parent: service
  name: 'waybill'
  properties: { displayName: 'Waybill', subscriptionRequired: true, approvalRequired: true, state: 'published' }
}

resource sold 'Microsoft.ApiManagement/service/products/apis@2024-05-01' = {
  parent: product
  name: api.name
}

resource namespace 'Microsoft.ServiceBus/namespaces@2026-01-01' existing = {
  name: namespaceName
}

resource queue 'Microsoft.ServiceBus/namespaces/queues@2026-01-01' existing = {
  parent: namespace
  name: queueName
}

resource sends 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (directToQueue) {
  scope: queue
  name: guid(queue.id, service.id, sender)
  properties: {
    principalId: service.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sender)
  }
}

resource directApi 'Microsoft.ApiManagement/service/apis@2024-05-01' = if (directToQueue) {
  parent: service
  name: 'waybill-queue'
  properties: {
    path: 'waybill-queue'
    displayName: 'Waybill, straight to the queue'
    protocols: ['https']
    subscriptionRequired: true
    type: 'http'
  }
}

resource directSubmit 'Microsoft.ApiManagement/service/apis/operations@2024-05-01' = if (directToQueue) {
  parent: directApi
  name: 'submitOrder'
  properties: { displayName: 'Submit an order', method: 'POST', urlTemplate: '/orders' }
}

resource directPolicy 'Microsoft.ApiManagement/service/apis/policies@2024-05-01' = if (directToQueue) {
  parent: directApi
  name: 'policy'
  properties: { format: 'xml', value: loadTextContent('apim/straight-to-queue.xml') }
  dependsOn: [queueUrl, sends]
}

resource directSold 'Microsoft.ApiManagement/service/products/apis@2024-05-01' = if (directToQueue) {
  parent: product
  name: directApi.name
}
