metadata description = 'A new API Management service, of a tier that has rate-limit-by-key and a circuit breaker.'

param name string
param location string
param publisherEmail string

resource service 'Microsoft.ApiManagement/service@2024-05-01' = {
  name: name
  location: location
  sku: { name: 'BasicV2', capacity: 1 }
  identity: { type: 'SystemAssigned' }
  properties: {
    publisherEmail: publisherEmail
    publisherName: 'Waybill'
  }
}
