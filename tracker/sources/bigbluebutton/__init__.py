"""BigBlueButton: bbb-webhooks of 2.x and 3.x, and the callbacks of its recording and analytics scripts."""
