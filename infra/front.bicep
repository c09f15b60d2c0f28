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
param queueKeySecret string

var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'
var dataSender = '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39'
var tokens = {
  none: ''
  entra: loadTextContent('apim/token-entra.xml')
  issuer: loadTextContent('apim/token-issuer.xml')
}
var senders = {
  identity: loadTextContent('apim/sender-identity.xml')
  key: loadTextContent('apim/sender-key.xml')
}
var onError = loadTextContent('apim/on-error.xml')
var entra = startsWith(authIssuer, environment().authentication.loginEndpoint)
var kind = entra ? 'entra' : 'issuer'
var token = tokens[empty(authIssuer) ? 'none' : kind]
var sender = senders[empty(queueKeySecret) ? 'identity' : 'key']
// The third part of https://login.microsoftonline.com/TENANT/v2.0: the tenant of the tokens, which may not be the deployer's.
var tenantId = entra ? split(authIssuer, '/')[3] : 'none'
var issuerPath = endsWith(authIssuer, '/') ? substring(authIssuer, 0, length(authIssuer) - 1) : authIssuer
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

resource openidConfig 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = if (!empty(authIssuer)) {
  parent: service
  name: 'waybill-openid-config'
  properties: { displayName: 'waybill-openid-config', value: '${issuerPath}/.well-known/openid-configuration' }
}

resource tenant 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = if (entra) {
  parent: service
  name: 'waybill-tenant'
  properties: { displayName: 'waybill-tenant', value: tenantId }
}

resource queueUrl 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = {
  parent: service
  name: 'waybill-queue-url'
  properties: { displayName: 'waybill-queue-url', value: 'https://${namespaceName}.servicebus.windows.net/${queueName}' }
}

resource queueKeyValue 'Microsoft.KeyVault/vaults/secrets@2026-02-01' existing = {
  parent: vault
  name: empty(queueKeySecret) ? 'none' : queueKeySecret
}

resource readsQueueKey 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(queueKeySecret)) {
  scope: queueKeyValue
  name: guid(queueKeyValue.id, service.id, secretsUser)
  properties: {
    principalId: service.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
  }
}

resource queueKey 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = if (!empty(queueKeySecret)) {
  parent: service
  name: 'waybill-queue-key'
  properties: {
    displayName: 'waybill-queue-key'
    secret: true
    keyVault: { secretIdentifier: '${vault.properties.vaultUri}secrets/${queueKeySecret}' }
  }
  dependsOn: [readsQueueKey]
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
  properties: { format: 'xml', value: replace(replace(loadTextContent('apim/orders.xml'), '<!-- token -->', token), '<!-- on-error -->', onError) }
  dependsOn: [backend, issuer, audience, openidConfig, tenant]
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

resource sends 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (directToQueue && empty(queueKeySecret)) {
  scope: queue
  name: guid(queue.id, service.id, dataSender)
  properties: {
    principalId: service.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataSender)
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
  properties: { format: 'xml', value: replace(replace(replace(loadTextContent('apim/straight-to-queue.xml'), '<!-- token -->', token), '<!-- sender -->', sender), '<!-- on-error -->', onError) }
  dependsOn: [queueUrl, queueKey, sends, issuer, audience, openidConfig, tenant]
}

resource directSold 'Microsoft.ApiManagement/service/products/apis@2024-05-01' = if (directToQueue) {
  parent: product
  name: directApi.name
}
