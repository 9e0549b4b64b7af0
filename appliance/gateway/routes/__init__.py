"""Every route of the box."""

from appliance.gateway.routes import admin, console, health, openai, tasks, usage

routers = (health.router, openai.router, tasks.router, usage.router, admin.router, console.router)
