metadata description = 'Alerts on the promise, and the budget.'

param name string
param location string
param email string
param namespaceId string
param queueName string
param accountId string
param workspaceId string
param budget int
param budgetStart string

var receivers = empty(email) ? [] : [{ name: 'operator', emailAddress: email, useCommonAlertSchema: true }]

resource operators 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: '${name}-operators'
  location: 'global'
  properties: {
    groupShortName: 'waybill'
    enabled: true
    emailReceivers: receivers
  }
}

resource deadLetters 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: '${name}-dead-letters'
  location: 'global'
  properties: {
    description: 'Dead letters wait for five minutes: OrderDeadLetter does not run, or cannot record.'
    severity: 1
    enabled: true
    scopes: [namespaceId]
    evaluationFrequency: 'PT1M'
    windowSize: 'PT5M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: 'waiting'
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.ServiceBus/namespaces'
          metricName: 'DeadletteredMessages'
          dimensions: [
            { name: 'EntityName', operator: 'Include', values: [queueName] }
          ]
          // The lowest value of five minutes: a dead letter that OrderDeadLetter is just taking is no alert.
          timeAggregation: 'Minimum'
          operator: 'GreaterThan'
          threshold: 0
        }
      ]
    }
    actions: [
      { actionGroupId: operators.id }
    ]
  }
}

resource throttled 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: '${name}-cosmos-429'
  location: 'global'
  properties: {
    description: 'Cosmos DB refuses requests, since too many request units are asked for.'
    severity: 2
    enabled: true
    scopes: [accountId]
    evaluationFrequency: 'PT1M'
    windowSize: 'PT5M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: 'refused'
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.DocumentDB/databaseAccounts'
          metricName: 'TotalRequests'
          dimensions: [
            { name: 'StatusCode', operator: 'Include', values: ['429'] }
          ]
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
        }
      ]
    }
    actions: [
      { actionGroupId: operators.id }
    ]
  }
}

resource noSweep 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = {
  name: '${name}-no-sweep'
  location: location
  kind: 'LogAlert'
  properties: {
    displayName: '${name}: no sweep for half an hour'
    severity: 1
    enabled: true
    scopes: [workspaceId]
    evaluationFrequency: 'PT5M'
    // A sweep a minute; rows may arrive many minutes late, and a shorter window would cry wolf.
    windowSize: 'PT30M'
    // The tables do not exist before the first request.
    skipQueryValidation: true
    criteria: {
      allOf: [
        {
          query: loadTextContent('../deploy/no-sweep.kql')
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
        }
      ]
    }
    actions: { actionGroups: [operators.id] }
  }
}

resource failedOrders 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = {
  name: '${name}-failed-orders'
  location: location
  kind: 'LogAlert'
  properties: {
    displayName: '${name}: more than one order in twenty failed'
    severity: 2
    enabled: true
    scopes: [workspaceId]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT15M'
    skipQueryValidation: true
    criteria: {
      allOf: [
        {
          query: loadTextContent('../deploy/failed-orders.kql')
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
        }
      ]
    }
    actions: { actionGroups: [operators.id] }
  }
}

resource oldOrder 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = {
  name: '${name}-old-order'
  location: location
  kind: 'LogAlert'
  properties: {
    displayName: '${name}: an order is overdue, and older than an hour'
    severity: 2
    enabled: true
    scopes: [workspaceId]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT15M'
    skipQueryValidation: true
    criteria: {
      allOf: [
        {
          query: loadTextContent('../deploy/oldest-order.kql')
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
        }
      ]
    }
    actions: { actionGroups: [operators.id] }
  }
}

// Azure refuses a change of the first month, so that the budget is made once.
@onlyIfNotExists()
resource monthly 'Microsoft.Consumption/budgets@2024-08-01' = if (budget > 0) {
  name: '${name}-monthly'
  properties: {
    category: 'Cost'
    amount: budget
    timeGrain: 'Monthly'
    timePeriod: { startDate: budgetStart }
    notifications: {
      nearly: {
        enabled: true
        operator: 'GreaterThan'
        threshold: 80
        thresholdType: 'Actual'
        contactEmails: empty(email) ? [] : [email]
        contactRoles: ['Owner']
      }
    }
  }
}
