"""Every route of the box."""

from appliance.gateway.routes import admin, health, openai, usage

routers = (health.router, openai.router, usage.router, admin.router)
